"""Other tools' files as DAGs: ``wfformat`` reads recorded workflows of WfCommons."""
