"""The test-time crops of the papers, box by box."""

from collections import Counter

import pytest

from convatlas.data.images.resize import Box
from convatlas.data.transforms.multi_crop import CenterCrop, CropView, FullImage, InceptionCrops, TenCrop


def test_ten_crops_are_corners_and_centre_of_the_central_256_and_flipped() -> None:
    views = TenCrop().views(300, 600, 224)
    left = (512 - 256) // 2
    corners = [(0, left), (0, left + 32), (32, left), (32, left + 32), (16, left + 16)]
    expected = [
        CropView((256, 512), Box(*corner, 224, 224), hflip) for hflip in (False, True) for corner in corners
    ]
    assert Counter(views) == Counter(expected)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (480, 1920)])
def test_the_144_crops_are_those_of_the_paper_and_all_differ(height: int, width: int) -> None:
    views = InceptionCrops().views(height, width, 224)
    expected = []
    for scale in (256, 288, 320, 352):
        h, w = (
            (scale, int(width * scale / height)) if height < width else (int(height * scale / width), scale)
        )
        for shift in (0, 0.5, 1):  # left, centre and right; for portraits top, centre and bottom
            y, x = round((h - scale) * shift), round((w - scale) * shift)
            for hflip in (False, True):
                expected.append(CropView((h, w), Box(y, x, scale, scale), hflip))
                room = scale - 224
                for dy, dx in ((0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)):
                    expected.append(CropView((h, w), Box(y + dy, x + dx, 224, 224), hflip))
    assert len(views) == len(set(views)) == 144
    assert set(views) == set(expected)


def test_crops_scale_in_proportion_for_networks_of_another_size() -> None:
    sizes = {view.resize_size for view in InceptionCrops().views(500, 500, 299)}
    assert sizes == {(342, 342), (384, 384), (427, 427), (470, 470)}


def test_one_scale_and_one_square_give_twelve_crops() -> None:
    left = round((341 - 256) / 2)
    corners = [(0, left), (0, left + 32), (32, left), (32, left + 32), (16, left + 16)]
    boxes = [Box(0, left, 256, 256), *(Box(*corner, 224, 224) for corner in corners)]
    views = InceptionCrops(scales=(256,), squares=1).views(375, 500, 224)
    assert Counter(views) == Counter(
        CropView((256, 341), box, hflip) for box in boxes for hflip in (False, True)
    )
    assert len(set(views)) == 12


def test_the_centre_crop_is_the_middle_of_the_image_at_256() -> None:
    box = Box(16, round((341 - 224) / 2), 224, 224)
    assert CenterCrop().views(375, 500, 224) == (CropView((256, 341), box),)


def test_full_image_views_are_the_image_at_each_scale_and_flipped() -> None:
    views = FullImage().views(375, 500, 224)
    sizes = [view.resize_size for view in views[::2]]
    assert sizes == [(224, 298), (256, 341), (384, 512), (480, 640), (640, 853)]
    assert all(view.box == Box(0, 0, *view.resize_size) for view in views)
    assert [view.hflip for view in views] == [False, True] * 5
