"""R-CNN's boxes: regression targets, overlap, suppression, box regression, proposals, warping, region
features, the detector, and average precision. Everything works on arrays by itself. arXiv:1311.2524."""

from convatlas.boxes.average_precision import (
    average_precision,
    coco_average_precision,
    match_detections,
)
from convatlas.boxes.detections import Detections, Truths, detections, truths
from convatlas.boxes.detector import Detector, train_detector
from convatlas.boxes.features import RegionFeatures
from convatlas.boxes.nms import nms
from convatlas.boxes.object_overlaps import mean_iou, object_overlaps
from convatlas.boxes.proposal_methods import SelectiveSearch, SlidingWindows
from convatlas.boxes.proposals import selective_search, sliding_boxes
from convatlas.boxes.rcnn import RCNN, train_rcnn
from convatlas.boxes.region_extractor import RegionExtractor
from convatlas.boxes.region_sets import Regions, TrainingImage
from convatlas.boxes.results import box_scores
from convatlas.boxes.ridge import BoxRegressor
from convatlas.boxes.scorers import fit_softmax_scorer, fit_svm_scorer
from convatlas.boxes.targets import clip, decode, encode, iou
from convatlas.boxes.warp import warp
from convatlas.data.sources.box_folder import open_boxes

__all__ = [
    "RCNN",
    "BoxRegressor",
    "Detections",
    "Detector",
    "RegionExtractor",
    "RegionFeatures",
    "Regions",
    "SelectiveSearch",
    "SlidingWindows",
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
    "open_boxes",
    "selective_search",
    "sliding_boxes",
    "train_detector",
    "train_rcnn",
    "truths",
    "warp",
]
