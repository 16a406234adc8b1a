"""Operations that encoders share: RoIAlign, attention of ragged sets, cross-attention blocks."""
