"""Teams whose rates are known exactly."""
