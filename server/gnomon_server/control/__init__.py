"""The control process: desired state, children, verdicts, promotion and audit."""
