"""The producer's requests to Redis, and the maker of every Redis client."""
