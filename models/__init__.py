"""What an early-exit model is: graph, heads, policy, bundle and the runtime of its stages."""
