"""What a training needs besides its loop, from names and numbers: model, data, loss, optimizer and its schedule."""

from ecograph.tools.training.course import Course
from ecograph.tools.training.ready import Parts, Ready, make_ready
from ecograph.tools.training.setup import Setup

__all__ = ["Course", "Parts", "Ready", "Setup", "make_ready"]
