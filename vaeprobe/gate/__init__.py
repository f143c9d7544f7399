"""The gate: a policy and a baseline turn measurements into checks that a CI run can trust."""
