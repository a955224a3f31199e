"""What Redis lost, or holds unreadably, is restored from Postgres and the stream."""
