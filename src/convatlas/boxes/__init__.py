"""R-CNN's boxes: regression targets, overlap, suppression, box regression, proposals, warping, region
features, the detector, and average precision. Everything works on arrays by itself. arXiv:1311.2524."""

from convatlas.boxes.average_precision import (
    average_precision,
    box_scores,
    coco_average_precision,
    match_detections,
)
from convatlas.boxes.detections import Detections, Truths, detections, truths
from convatlas.boxes.features import RegionFeatures
from convatlas.boxes.nms import nms
from convatlas.boxes.object_overlaps import mean_iou, object_overlaps
from convatlas.boxes.proposals import selective_search, sliding_boxes
from convatlas.boxes.rcnn import RCNN, train_rcnn
from convatlas.boxes.region_sets import Regions, TrainingImage
from convatlas.boxes.ridge import BoxRegressor
from convatlas.boxes.scorers import fit_softmax_scorer, fit_svm_scorer
from convatlas.boxes.targets import clip, decode, encode, iou
from convatlas.boxes.warp import warp

__all__ = [
    "RCNN",
    "BoxRegressor",
    "Detections",
    "RegionFeatures",
    "Regions",
    "TrainingImage",
    "Truths",
    "average_precision",
    "box_scores",
    "clip",
    "coco_average_precision",
    "decode",
    "detections",
    "encode",
    "fit_softmax_scorer",
    "fit_svm_scorer",
    "iou",
    "match_detections",
    "mean_iou",
    "nms",
    "object_overlaps",
    "selective_search",
    "sliding_boxes",
    "train_rcnn",
    "truths",
    "warp",
]
