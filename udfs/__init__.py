"""What runs on executors: the pandas UDFs, the state of a worker process, SQL registration."""
