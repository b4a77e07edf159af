"""What every ablation needs: trainings side by side that go on where they were, intervals."""
