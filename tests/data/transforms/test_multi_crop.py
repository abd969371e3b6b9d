"""The test-time crops of the papers, box by box."""

from collections import Counter

import pytest

from convatlas.data.images.resize import Box
from convatlas.data.transforms.multi_crop import CenterCrop, CropView, FullImage, InceptionCrops, TenCrop


def test_ten_crops_are_the_corners_and_centre_of_the_central_256_and_their_mirror_images() -> None:
    found = TenCrop().views(300, 600, 224)
    left = (512 - 256) // 2
    places = [(0, left), (0, left + 32), (32, left), (32, left + 32), (16, left + 16)]
    expected = [CropView((256, 512), Box(*place, 224, 224), mirrored) for mirrored in (False, True) for place in places]
    assert Counter(found) == Counter(expected)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (480, 1920)])
def test_the_144_crops_are_transcribed_from_the_paper_and_none_comes_twice(height: int, width: int) -> None:
    found = InceptionCrops().views(height, width, 224)
    expected = []
    for scale in (256, 288, 320, 352):
        h, w = (scale, int(width * scale / height)) if height < width else (int(height * scale / width), scale)
        for step in (0, 0.5, 1):  # left, centre and right; for portraits top, centre and bottom
            y, x = round((h - scale) * step), round((w - scale) * step)
            for mirrored in (False, True):
                expected.append(CropView((h, w), Box(y, x, scale, scale), mirrored))
                room = scale - 224
                for dy, dx in ((0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)):
                    expected.append(CropView((h, w), Box(y + dy, x + dx, 224, 224), mirrored))
    assert len(found) == len(set(found)) == 144
    assert set(found) == set(expected)


def test_crops_are_in_proportion_for_networks_of_another_size() -> None:
    assert {w.whole for w in InceptionCrops().views(500, 500, 299)} == {(342, 342), (384, 384), (427, 427), (470, 470)}


def test_one_scale_and_one_square_give_twelve() -> None:
    left = round((341 - 256) / 2)
    places = [(0, left), (0, left + 32), (32, left), (32, left + 32), (16, left + 16)]
    boxes = [Box(0, left, 256, 256), *(Box(*place, 224, 224) for place in places)]
    found = InceptionCrops(scales=(256,), squares=1).views(375, 500, 224)
    assert Counter(found) == Counter(CropView((256, 341), box, mirrored) for box in boxes for mirrored in (False, True))
    assert len(set(found)) == 12


def test_the_centre_crop_is_the_middle_of_the_picture_at_256() -> None:
    assert CenterCrop().views(375, 500, 224) == (CropView((256, 341), Box(16, round((341 - 224) / 2), 224, 224)),)


def test_dense_views_are_the_whole_picture_at_each_scale_and_mirrored() -> None:
    found = FullImage().views(375, 500, 224)
    assert [w.whole for w in found[::2]] == [(224, 298), (256, 341), (384, 512), (480, 640), (640, 853)]
    assert all(w.box == Box(0, 0, *w.whole) for w in found)
    assert [w.hflip for w in found] == [False, True] * 5
