"""RQ: the worker class, drain jobs, their scheduler, and rq-dashboard."""
