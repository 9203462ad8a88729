"""Whether the numbers that folded weights came of are still the same."""
