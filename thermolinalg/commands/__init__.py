"""The commands, each as a job: a problem that is read, planned, run, compared and drawn."""
