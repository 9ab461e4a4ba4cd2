"""What the promoted model says about pictures and videos of the user's own."""
