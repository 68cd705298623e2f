"""The theory as a suite: claims audited on many teams, constructions that attain them, exact decisions, figures."""
