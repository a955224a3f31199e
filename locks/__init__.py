"""What is installed, by version and digest; and whose licences it has."""
