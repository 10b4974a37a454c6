"""What happens to a DAG: submission, decisions, the loop of a worker, views."""
