"""Do the papers' claims hold on a pretrained chat model? The plan, its runs, and the page: `python -m study`."""
