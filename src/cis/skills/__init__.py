"""What a task can be: from parameters to a process, a child DAG or a wait.

``registry.InstalledSkills`` knows the built-in skills (``shell``, ``http``, ``python``, ``dag``) and those of installed
packages.
"""
