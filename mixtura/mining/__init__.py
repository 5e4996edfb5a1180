"""What a model fails at: attempts at rows with checkable answers, judged, counted, sliced."""
