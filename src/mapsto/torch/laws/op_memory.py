from ...core.laws import Laws

laws = Laws("op")
