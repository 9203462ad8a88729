"""Weight expressions: symbolic over the parameters of a model; built, compared, evaluated."""
