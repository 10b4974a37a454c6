"""Accepting a DAG: who may, where it goes, and control of what was accepted.

``submit.submit`` is the one way in, ``dispatch`` chooses the node, ``staging`` stores large DAGs before they are
accepted, ``admission`` knows places and parents, and ``control`` cancels, pauses, resumes and reruns.
"""
