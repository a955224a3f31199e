"""The HTTP server of exporter, dashboard and worker: pages, and the bounds within which they are served."""
