"""What happens to a DAG on its node: ``accept``, ``run``, ``observe``, and in the end ``upkeep``.

Modules beside these wings are shared by them: ``ports`` says what the engine needs of the layers above it.
"""
