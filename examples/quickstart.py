"""The quickstart from Python: run the recipe, then ask the trained model."""

from pathlib import Path

import itemic

itemic.show_progress()
recipe = itemic.load_recipe(Path("recipes/quickstart.yaml"))
itemic.run_recipe(recipe)
trained = itemic.load_trained(recipe.run)
for item in trained.recommend(["Star Wars (1977)", "Empire Strikes Back, The (1980)"], k=5):
    print(item.rank, item.title, f"{item.probability:.3f}", item.sid)
