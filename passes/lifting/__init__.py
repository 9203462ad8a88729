"""What lifting is in every IR: arithmetic with constants, pools and other ops that maps cross."""
