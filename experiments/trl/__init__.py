"""Sequential trust regions for TRL's trainers: they run where torch and TRL are, not in the environment of the package."""
