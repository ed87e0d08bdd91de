from . import encoders as encoders
from .blocks import cut as cut, narrow_resnet as narrow_resnet
from .encoders import Name as Name, build as build, import_torchvision as import_torchvision
