"""What is known of this machine from measuring it and from earlier runs on it."""
