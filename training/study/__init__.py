"""What do learning rate, batch, loss weight, augmentation, data, input scale and width do to a model?"""
