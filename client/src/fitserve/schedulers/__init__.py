"""What batch schedulers say of jobs, and what that means for a run."""
