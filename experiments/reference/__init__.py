"""Do ours land where others do?"""
