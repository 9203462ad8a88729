"""``keep="module"``: folds carried out on a copy of the user's own modules."""
