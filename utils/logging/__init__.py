"""Records of runs: the experiment table and what goes with it."""
