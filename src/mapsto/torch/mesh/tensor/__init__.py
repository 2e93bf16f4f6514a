"""The axis `tensor`: ranks share each product (DTensor)."""
