"""What happens to a DAG on its node: accepted (``accept``), run (``run``), observed (``observe``), forgotten (``upkeep``)."""
