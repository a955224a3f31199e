"""Files of snapshots, read into a producer."""
