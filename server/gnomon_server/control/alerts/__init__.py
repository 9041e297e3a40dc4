"""Alerts: what somebody should know of without looking, and how it is told."""
