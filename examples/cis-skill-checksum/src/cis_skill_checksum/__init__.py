"""The checksum of a file, as a skill of CIS-DAG."""
