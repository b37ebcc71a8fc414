"""A federated round, from open to published. Start reading at `lifecycle.py`."""
