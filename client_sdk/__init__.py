"""What a participant installs to take part in federated training."""
