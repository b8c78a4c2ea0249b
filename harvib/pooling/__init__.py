"""Models that pool the frames of a clip, every layer dense or circulant, and masked.

Araujo, Negrevergne, Chevaleyre and Atif, "Training compact deep learning models for video classification using
circulant matrices", ECCV workshop on YouTube-8M, 2018 (arXiv 1810.01140).
"""
