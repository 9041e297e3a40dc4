"""The gnomon server: frontends that answer, shadow workers that compare, and the control process that owns both."""
