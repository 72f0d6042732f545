"""The test bed: the built images on a virtual network of their own, and the outside hosts that use them."""
