"""What does it all mean: findings, coverage, report, exports."""
