"""Batch schedulers: what each can be asked for, and what its commands say of jobs."""
