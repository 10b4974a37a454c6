"""What happens to a DAG on its node: ``accept``, ``run``, ``observe``, and in the end ``upkeep``.

Modules beside these wings are shared by them: ``transitions`` alone moves runs and tasks, each change with its event,
and ``ports`` says what the engine needs of the layers above it.
"""
