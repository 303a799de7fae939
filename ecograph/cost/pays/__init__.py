"""Whether a change to a layer pays: what runs with it and without, recorded without data, and priced on a device.

`call.py` records a call forward and backward; `verdict.py` compares two of them; `prices.py` says on which device;
`product.py` is the plain product of a layer, from its shapes. Passes bring what they put in its place.
"""

from ecograph.cost.pays.call import Spec, record_call
from ecograph.cost.pays.prices import computed_in, planned_for, prices
from ecograph.cost.pays.product import PlainProduct, ProductCall, product_call
from ecograph.cost.pays.verdict import Verdict, compare

__all__ = [
    "PlainProduct", "ProductCall", "Spec", "Verdict",
    "compare", "computed_in", "planned_for", "prices", "product_call", "record_call",
]  # fmt: skip
