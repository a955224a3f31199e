"""What producers and workers, of this version and of others, agree on."""
